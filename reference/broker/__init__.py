"""The embedded MQTT broker: amqtt behind our own admission and topic rights, as a process of its own.

For demos, tests and small stagings on loopback. Clean sessions only, nothing retained, MQTT 3.1.1; Mosquitto is the
broker for the field.
"""
