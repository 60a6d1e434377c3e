"""What happens beside the steps: the clock, the log, the pictures, the rescue on Ctrl-C."""
