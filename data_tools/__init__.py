"""Text to shards: fetch, train_tokenizer, make_shards; `python -m data_tools.<verb>`."""
