-- Version, end and events of the records in tables that have no columns for them.
CREATE TABLE {{schema}}.record (
    collection  text COLLATE "C" NOT NULL,
    key         bytea  NOT NULL, -- the record's key in walproxy's encoding
    version     bigint NOT NULL, -- LSN of the last write
    expires_at  timestamptz,
    event_count bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (collection, key)
);
CREATE INDEX record_expires_at ON {{schema}}.record (collection, expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE {{schema}}.event (
    collection text COLLATE "C" NOT NULL,
    key        bytea  NOT NULL,
    number     bigint NOT NULL, -- from 1
    lsn        bigint NOT NULL,
    fields     jsonb  NOT NULL,
    PRIMARY KEY (collection, key, number)
);

-- Ends a transaction that wrote to tables which are no longer as they were read.
CREATE FUNCTION {{schema}}.unchanged(is_now text, was_read text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    IF is_now IS DISTINCT FROM was_read THEN
        RAISE EXCEPTION 'walproxy: the schema has changed' USING ERRCODE = 'WP002';
    END IF;
END
$$;
