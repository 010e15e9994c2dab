# docker build -t emgen .          docker run --rm -v "$PWD/runs:/work/runs" emgen trainer=vae data=digits
# With a GPU: docker run --gpus all ... (the default torch wheel carries CUDA)
FROM python:3.11-slim

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY configs ./configs
COPY emgen ./emgen
RUN pip install --no-cache-dir .

RUN useradd --create-home emgen && mkdir /work && chown emgen /work
USER emgen
WORKDIR /work
ENTRYPOINT ["emgen"]
