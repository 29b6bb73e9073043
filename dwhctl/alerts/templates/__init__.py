"""Templates of messages, and what is said about them in the reference page."""
