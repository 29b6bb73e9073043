"""What a user types and sees: one module per command, imported only when its command runs."""
