package redisstore

import "context"

// PurgeGroups deletes the groups of a logical cluster, their offsets, and what is known
// of their backups. Nobody is served groups of it from then on, until SetGroupsLife. The
// counter of ownership epochs stays, so that no epoch is ever given out twice.
func (s *Store) PurgeGroups(ctx context.Context, logicalCluster string) error {
	if err := s.rdb.Del(ctx, s.key(logicalCluster, keyGroupsLife)).Err(); err != nil {
		return unavailable(err)
	}
	err := s.Groups(ctx, logicalCluster, func(ids []string) error {
		if len(ids) == 0 {
			return nil
		}
		keys := make([]string, 0, 3*len(ids))
		for _, id := range ids {
			k := s.groupKeys(logicalCluster, id)
			keys = append(keys, k.owner, k.state, k.offsets)
		}
		return unavailable(s.rdb.Unlink(ctx, keys...).Err())
	})
	if err != nil {
		return err
	}
	k := s.groupKeys(logicalCluster, "")
	return unavailable(s.rdb.Unlink(ctx, k.index, k.deleted, s.key(logicalCluster, keyOffsetsBackup), s.key(logicalCluster, "token-key")).Err())
}
