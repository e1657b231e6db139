"""Generated protobuf code (`scripts/protos`) and what it is generated from."""
