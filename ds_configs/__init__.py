"""DeepSpeed files: how state is sharded, offloaded and sent. See README.md beside them."""
