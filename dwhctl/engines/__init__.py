"""What sources and targets of the same system share."""
