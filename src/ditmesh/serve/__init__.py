"""HTTP in, pictures out, over replicas: the shapes of OpenAI's images, videos, files and batches, and a page."""
