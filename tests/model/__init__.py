"""The election's rules against real Lua on real servers, in time that is only counted."""
