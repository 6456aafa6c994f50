"""How the embedded model is made: corpus, tokenizer, shapes, training, evaluation."""
