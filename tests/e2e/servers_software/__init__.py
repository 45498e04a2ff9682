"""Programs that the suite of real servers starts, each with a config of its own, on loopback, on free ports."""
