# The images of this project: one static binary each, built on the host by `make images`, and directories for what it writes,
# owned by the user that docker-compose.yaml runs it as, so that a new volume is that user's.
FROM scratch AS ringfence
COPY bin/image/ringfence /ringfence
COPY --chown=101:101 bin/image/ringfence.d/ /
USER 101:101
ENTRYPOINT ["/ringfence"]

# The sample applications and the checker of docker-compose.yaml.
FROM scratch AS checker
COPY bin/image/checker /checker
COPY --chown=101:101 bin/image/checker.d/ /
USER 65532:65532
ENTRYPOINT ["/checker"]
