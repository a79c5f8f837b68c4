"""What a command does beyond talking to the daemon."""
