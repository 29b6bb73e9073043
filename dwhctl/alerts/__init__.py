"""What people are told: digests, the rules about them, and the channels that they go out by."""
