"""Everything that proves spinwheel; never shipped in the wheel."""
