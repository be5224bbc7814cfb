"""The wire between service and device: topics, messages, signed envelopes. Both sides share nothing else but core."""
