// River: one process works off no-op jobs. What goes in and out: ../README.md.
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

const (
	stalled        = 60 * time.Second
	insertedAtOnce = 5_000
)

// The shortest times it allows, as where it is to be fast. A client fetches as many jobs at once as it has workers free, and batches
// completions by itself. With the most workers there can be, 10,000, each job costs the server a third more time than with 1000 to 5000.
type setting struct {
	Workers    int   `json:"workers"`
	CooldownMs int   `json:"cooldown_ms"`
	PollMs     int   `json:"poll_ms"`
	Pool       int32 `json:"pool"`
}

type noop struct {
	N    int    `json:"n"`
	Text string `json:"text"`
}

func (noop) Kind() string { return "noop" }

type worker struct {
	river.WorkerDefaults[noop]
	ran   []atomic.Int32
	calls atomic.Int64
}

func (w *worker) Work(_ context.Context, job *river.Job[noop]) error {
	w.ran[job.Args.N].Add(1)
	w.calls.Add(1)
	return nil
}

func insert(ctx context.Context, client *river.Client[pgx.Tx], jobs, payloadBytes int) error {
	text := strings.Repeat("x", max(0, payloadBytes-20))
	for from := 0; from < jobs; from += insertedAtOnce {
		var some []river.InsertManyParams
		for n := from; n < min(jobs, from+insertedAtOnce); n++ {
			some = append(some, river.InsertManyParams{Args: noop{N: n, Text: text}})
		}
		if _, err := client.InsertManyFast(ctx, some); err != nil {
			return err
		}
	}
	return nil
}

func left(ctx context.Context, pool *pgxpool.Pool) (left int, err error) {
	err = pool.QueryRow(ctx, "select count(*) from river_job where state <> 'completed'").Scan(&left)
	return left, err
}

// Asks the store only when all jobs have run, so that it does not disturb them.
func (w *worker) finished(ctx context.Context, pool *pgxpool.Pool) error {
	seen, since := int64(0), time.Now()
	for {
		calls := w.calls.Load()
		if calls >= int64(len(w.ran)) {
			if left, err := left(ctx, pool); err != nil || left == 0 {
				return err
			}
		}
		if calls != seen {
			seen, since = calls, time.Now()
		}
		if time.Since(since) > stalled {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func number(name string) (int, error) {
	value, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return value, nil
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == "github.com/riverqueue/river" {
				return strings.TrimPrefix(module.Version, "v")
			}
		}
	}
	return "unknown"
}

func run(ctx context.Context) error {
	jobs, err := number("BENCH_JOBS")
	if err != nil {
		return err
	}
	payloadBytes, err := number("BENCH_PAYLOAD_BYTES")
	if err != nil {
		return err
	}
	set := setting{Workers: 2000, CooldownMs: 2, PollMs: 20, Pool: 10}
	if err := json.Unmarshal([]byte(cmp.Or(os.Getenv("BENCH_SETTING"), "{}")), &set); err != nil {
		return fmt.Errorf("BENCH_SETTING: %w", err)
	}
	config, err := pgxpool.ParseConfig(os.Getenv("BENCH_DATABASE_URL"))
	if err != nil {
		return err
	}
	config.MaxConns = set.Pool
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	driver := riverpgxv5.New(pool)
	migrator, err := rivermigrate.New(driver, nil)
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	work := &worker{ran: make([]atomic.Int32, jobs)}
	workers := river.NewWorkers()
	river.AddWorker(workers, work)
	client, err := river.NewClient(driver, &river.Config{
		FetchCooldown:     time.Duration(set.CooldownMs) * time.Millisecond,
		FetchPollInterval: time.Duration(set.PollMs) * time.Millisecond,
		Logger:            slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: set.Workers}},
		Workers:           workers,
	})
	if err != nil {
		return err
	}
	if err := insert(ctx, client, jobs, payloadBytes); err != nil {
		return err
	}
	fmt.Println(`{"ready":true}`)
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}

	started := time.Now()
	if err := client.Start(ctx); err != nil {
		return err
	}
	if err := work.finished(ctx, pool); err != nil {
		return err
	}
	seconds := time.Since(started).Seconds()
	if err := client.Stop(ctx); err != nil {
		return err
	}

	var once, more, never int
	for i := range work.ran {
		switch times := work.ran[i].Load(); {
		case times == 0:
			never++
		case times == 1:
			once++
		default:
			more++
		}
	}
	left, err := left(ctx, pool)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"jobs":              jobs,
		"seconds":           seconds,
		"ran_once":          once,
		"ran_twice_or_more": more,
		"never_ran":         never,
		"left_in_store":     left,
		"keeps_outcome":     true,
		"version":           version(),
		"setting": fmt.Sprintf("%d workers, fetch cooldown %d ms, poll interval %d ms",
			set.Workers, set.CooldownMs, set.PollMs),
	})
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
