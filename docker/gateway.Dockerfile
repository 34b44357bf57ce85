# The gateway: REST in front of Redis. It holds neither a solver nor torch.
FROM python:3.11-slim-bookworm

# A numeric user, so that an orchestrator can see that it is not root.
RUN useradd --uid 10001 --create-home gdsolver

# Dependencies first: a change of the source below does not install them again.
WORKDIR /build
COPY pyproject.toml constraints.txt docker/requirements.py ./
RUN python requirements.py gateway > requirements.txt \
 && pip install --no-cache-dir --root-user-action=ignore -r requirements.txt -c constraints.txt
RUN --mount=type=bind,target=/source,rw \
    pip install --no-cache-dir --root-user-action=ignore --no-deps /source

ENV PYTHONUNBUFFERED=1
WORKDIR /home/gdsolver
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["gdsolver-pool", "gateway"]
