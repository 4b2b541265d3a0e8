"""The demo as a Space of the Hugging Face Hub."""

from impflow_zoo.demo import serve

if __name__ == "__main__":
    serve(allowed_hosts=["*.hf.space"])
