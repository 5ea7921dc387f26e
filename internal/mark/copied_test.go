package mark_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/mark"
)

func TestSealSaysWhereCopiesAre(t *testing.T) {
	s := mark.Subject{LogicalCluster: "default", Topic: "orders", TopicID: federation.NewTopicID(), Partition: 3, Extent: 2, MapVersion: 9}
	want := mark.Copied{End: 77, Copies: federation.PhysicalRange{From: 1, To: 12}}
	batch := mark.SealCopied(s, mark.ProducerID(5), want, time.Now())
	kind, subject, _, err := mark.Parse(batch)
	require.NoError(t, err)
	require.Equal(t, mark.KindSeal, kind)
	require.Equal(t, s, subject)
	got, copied, err := mark.ParseCopied(batch)
	require.NoError(t, err)
	require.True(t, copied)
	require.Equal(t, want, got)

	_, copied, err = mark.ParseCopied(mark.Seal(s, mark.ProducerID(5), time.Now()))
	require.NoError(t, err)
	require.False(t, copied)
	_, _, err = mark.ParseCopied(batch[:20])
	require.Error(t, err)
	bad := mark.SealCopied(s, mark.ProducerID(5), mark.Copied{Copies: federation.PhysicalRange{From: 5, To: 2}}, time.Now())
	_, _, err = mark.ParseCopied(bad)
	require.ErrorContains(t, err, "copies from 5 to 2")
}
