"""The OPC Core Client: the workload that is updated. `app/` becomes the image; `images` writes its folder."""
