"""What an audit asks of annotators: tests on arrays, each with an effect and its interval."""
