//go:build gocql2

package main

import (
	"github.com/apache/cassandra-gocql-driver/v2"
	"github.com/apache/cassandra-gocql-driver/v2/lz4"
	"github.com/apache/cassandra-gocql-driver/v2/snappy"
)

type (
	session         = gocql.Session
	batch           = gocql.Batch
	clusterConfig   = gocql.ClusterConfig
	duration        = gocql.Duration
	uuid            = gocql.UUID
	passwords       = gocql.PasswordAuthenticator
	sslOptions      = gocql.SslOptions
	observedConnect = gocql.ObservedConnect
	observedHeader  = gocql.ObservedFrameHeader
)

const (
	logged   = gocql.LoggedBatch
	unlogged = gocql.UnloggedBatch
	counting = gocql.CounterBatch
	localOne = gocql.LocalOne
)

func newCluster(hosts ...string) *clusterConfig {
	cluster := gocql.NewCluster(hosts...)
	cluster.PoolConfig.HostSelectionPolicy = gocql.TokenAwareHostPolicy(gocql.RoundRobinHostPolicy())
	return cluster
}

func compress(cluster *clusterConfig, how string) {
	if how == "lz4" {
		cluster.Compressor = lz4.LZ4Compressor{}
	} else {
		cluster.Compressor = snappy.SnappyCompressor{}
	}
}

func timeUUID() uuid { return gocql.TimeUUID() }

// again is the retry policy of what is idempotent; the driver has none by itself.
var again = &gocql.SimpleRetryPolicy{NumRetries: 3}
