"""What every part needs and none owns: logs, durable files, child processes, the MQTT link."""
