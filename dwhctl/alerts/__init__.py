"""Messages about the end of a run: what is news, for which channel, and how it is sent.

Read in this order:
- `digest`: the outcome of a command, and the digest that is made of it.
- `state` compares an outcome with what a channel already knows; `rules` decides what the channel gets.
- `notifier` does both for every channel. `outbox` stores a digest before it is sent, `delivery` sends it once.
- `message` writes the text (templates in `templates/`).
- `smtp`, `telegram` and `ping` send it; `channels` has what they share, `http` is one bounded POST.
Data goes from `Outcome` to `Digest`, into the outbox, to a `Message`, to the server.
"""
