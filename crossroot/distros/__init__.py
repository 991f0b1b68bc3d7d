"""Where a rootfs and its packages come from, one module per distribution."""
