"""The live node: topics, parameters, diagnostics, lifecycle, DDS. Only here, in `trials/` and in the replay of
recordings is rclpy imported."""
