"""The MQTT broker as a process of its own: amqtt behind our own admission and topic rights, or Mosquitto.

amqtt is for demos, tests and loopback: clean sessions only, nothing retained, MQTT 3.1.1. Mosquitto is for the rest.
"""
