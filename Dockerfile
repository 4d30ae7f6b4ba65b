FROM golang:1.26-trixie AS build
ARG VERSION=
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags "-X main.stamp=$VERSION" -o /proxymatic ./cmd/proxymatic

FROM debian:trixie-slim
# Without recommended packages: a GeoIP database would cost each pen 10 MB.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates haproxy pen tini \
    && useradd --system --no-create-home --shell /usr/sbin/nologin pen \
    && mkdir -p /run/proxymatic /var/lib/proxymatic \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
COPY --from=build /proxymatic /usr/local/bin/proxymatic
# The proxies end with the container, so their connections are given time when it stops: less than the 10 s after which
# `docker stop` kills. These win over a configuration file.
ENV HAPROXY_START=managed HAPROXY_RELOAD=managed ON_EXIT=drain DRAIN=7s
VOLUME ["/run/proxymatic", "/var/lib/proxymatic"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["proxymatic", "healthcheck"]
# tini reaps the workers of an HAProxy whose master was killed.
ENTRYPOINT ["tini", "--", "proxymatic"]
# Nothing is exposed, and registrator is told to ignore this: it would register proxymatic as a service.
ARG VERSION=
ARG REVISION=
LABEL SERVICE_IGNORE=true \
      org.opencontainers.image.title="proxymatic" \
      org.opencontainers.image.description="Keeps the proxies of a host in step with the services of its cluster" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.source="https://github.com/meltwater/proxymatic" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
