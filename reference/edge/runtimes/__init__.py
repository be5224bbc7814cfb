"""What runs containers on a device, behind one port (`base`)."""
