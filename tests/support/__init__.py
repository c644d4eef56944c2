"""What tests share: real servers, a TCP proxy that fails on order, child processes."""
