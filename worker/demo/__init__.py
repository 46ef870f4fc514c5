"""The main job on a small stage: a real broker, two real workers, an emulated Office 365, six notifications."""
