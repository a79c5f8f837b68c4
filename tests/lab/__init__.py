"""Tools of the namespace tests: strongSwan, our own daemon, a NAT in userspace."""
