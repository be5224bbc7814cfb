"""What stands between two parts and can hurt what passes: Toxiproxy, the MQTT proxy, the registry's front."""
