"""Messages about the end of a run: what is new to which channel, and how it is sent.

Read in this order:
- `digest`: the outcome of a command, and the digest that is made of it.
- `state` compares an outcome with what a channel was notified of; `rules` decides on the channel's digest.
- `notifier` does both for every channel. `outbox` stores a digest before it is sent, `delivery` sends it once.
- `message` renders a template (in `templates/`). `channels` lists the channels: `telegram`, `smtp`,
  `webhook` (`markup` is the form of each service) and `apprise`.
- `transport` is a bounded exchange with a server, and the HTTP sender of `telegram`, `webhook` and `ping`.
Data goes from `Outcome` to `Digest`, into the outbox, to a `Message`, to the server.
"""
