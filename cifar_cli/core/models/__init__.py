"""The models: `registry` names them, `build` makes them. Importing this package loads no torch."""
