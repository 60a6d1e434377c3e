"""The library under the command line: every command calls one function from here."""
