"""Generated from payload.proto by scripts/protos."""
