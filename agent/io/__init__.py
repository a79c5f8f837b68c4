"""The only files of the agent that call the operating system."""
