"""HTTP and JSON on the inner address: the devices and points of a gateway."""
