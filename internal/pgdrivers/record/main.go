// Command record writes down what drivers of PostgreSQL send to a server that asks
// nobody for a password, for the corpus that is replayed in tests:
//
//	go run ./internal/pgdrivers/record -server postgres://postgres@127.0.0.1:5432/postgres
//	go run ./internal/pgdrivers/record -server ... psql pgx     these alone
//
// Drivers that are not installed are left as they were recorded (make install-drivers).
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walproxy/walproxy/internal/pgdrivers"
)

func main() {
	server := flag.String("server", "", "URL of the server, of a user who may create databases")
	to := flag.String("to", filepath.Join("internal", "pgdrivers", "corpus"), "directory of the transcripts")
	show := flag.Bool("show", false, "print what the drivers print")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *server, *to, *show, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, server, to string, show bool, names []string) error {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.User == nil {
		return fmt.Errorf("-server %q: want a URL as postgres://postgres@127.0.0.1:5432/postgres", server)
	}
	for _, d := range pgdrivers.Drivers() {
		if len(names) > 0 && !slices.Contains(names, d.Name) {
			continue
		}
		if why := d.Missing(); why != "" {
			fmt.Printf("%s: not recorded: %s\n", d.Name, why)
			continue
		}
		t, printed, err := record(ctx, d, u)
		if err != nil {
			return err
		}
		if show {
			fmt.Printf("%s", printed)
		}
		n, err := write(filepath.Join(to, d.Name), t)
		if err != nil {
			return err
		}
		fmt.Printf("%s: %d connections, %d bytes\n", d.Name, len(t.Connections), n)
	}
	return nil
}

// record has a driver do the programme in a database of its own.
func record(ctx context.Context, d pgdrivers.Driver, u *url.URL) (_ *pgdrivers.Transcript, printed []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	admin, err := pgx.Connect(ctx, u.String())
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, admin.Close(ctx)) }()
	const database = "recorded"
	if _, err := admin.Exec(ctx, "CREATE DATABASE "+database); err != nil {
		return nil, nil, err
	}
	defer func() {
		_, dropped := admin.Exec(ctx, "DROP DATABASE "+database+" WITH (FORCE)")
		err = errors.Join(err, dropped)
	}()
	if err := tables(ctx, u, database); err != nil {
		return nil, nil, err
	}
	r, err := pgdrivers.NewRecorder(u.Host)
	if err != nil {
		return nil, nil, err
	}
	var out bytes.Buffer
	ran := d.Run(ctx, pgdrivers.Target{Addr: r.Addr(), User: u.User.Username(), Password: "unused", Database: database}, &out)
	connections, err := r.Close()
	return &pgdrivers.Transcript{Driver: d.Name, About: d.Version(ctx), Connections: connections}, out.Bytes(), errors.Join(ran, err)
}

func tables(ctx context.Context, u *url.URL, database string) error {
	c, err := pgx.ParseConfig(u.String())
	if err != nil {
		return err
	}
	c.Database = database
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return err
	}
	_, err = conn.PgConn().Exec(ctx, pgdrivers.DDL).ReadAll()
	return errors.Join(err, conn.Close(ctx))
}

func write(path string, t *pgdrivers.Transcript) (int, error) {
	var b bytes.Buffer
	if err := t.Write(&b); err != nil {
		return 0, err
	}
	return b.Len(), os.WriteFile(path, b.Bytes(), 0o644)
}
