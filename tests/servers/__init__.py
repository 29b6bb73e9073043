"""Protocol servers for the tests."""
