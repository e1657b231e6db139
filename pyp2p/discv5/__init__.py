"""Node discovery v5.1: node records, and the parts of the protocol that finds them. Needs the extra `discv5`."""
