"""One device from opened to closed, and the only place where protobuf meets our dataclasses."""
