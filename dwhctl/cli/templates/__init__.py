"""Files that commands write into new projects."""
