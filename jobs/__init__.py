"""One file per job: compose the configuration, build the parts, run. ``launch`` is the door they all come in by."""
