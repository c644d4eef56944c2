-- stage: write a piece of a hash that expires unless somebody makes it a ledger.
--
-- KEYS[1] the hash.
-- ARGV[1] milliseconds; then fields and values.
-- RETURNS fields in it.
-- TIME none. Both in one script: a client that ends between the two would leave it for good.

redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('HLEN', KEYS[1])
