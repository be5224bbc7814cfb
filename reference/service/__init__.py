"""The Device Management Service: takes update orders over HTTP, and sees them through with the devices over MQTT."""
