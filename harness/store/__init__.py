"""The on-disk exception store of dm-snapshot (type P): parse, serialise, check."""
