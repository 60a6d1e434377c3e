"""What happens beside the steps: the clock, the log, the pictures, what is kept on disk."""
