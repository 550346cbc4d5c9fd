"""What threads do together in ptx_machine.py: barriers, shuffles, votes, and how a warp's accesses fall into memory."""

from functools import partial

import numpy as np
from ptx_memory import LOCAL, READ, SHARED
from ptx_parser import PtxError

WARP = 32


# --- who waits for whom -------------------------------------------------------------------------------------------


def all_of_block(launch, threads, count):
    """bar.sync: which threads stand there with all others of their block, or with `count` of them."""
    blocks = launch.block[threads]
    return (np.bincount(blocks, minlength=launch.blocks) == (count or launch.block_size))[blocks]


def lanes_of(launch, threads):
    """For each warp, one bit for each lane that is among `threads`."""
    bits = np.bincount(launch.warp[threads], 2.0 ** launch.lane[threads], launch.warps)
    return bits.astype("u4")


def all_of_mask(launch, threads, mask_of):
    """Which threads stand there with all those that their mask names and that have not left the kernel."""
    mask = np.broadcast_to(mask_of(launch.registers_of(threads)), len(threads))
    warp, lane = launch.warp[threads], launch.lane[threads].astype("u4")
    if not (mask >> lane & np.uint32(1)).all():
        raise PtxError("a thread waits for a mask without its own lane")
    still = lanes_of(launch, launch.thread[~launch.gone])
    return (mask & still[warp] & ~lanes_of(launch, threads)[warp]) == 0


def pass_barrier(registers):
    """What a block did before is in an order with what it does now; if only some of it waited, that is not kept."""
    launch = registers.launch
    here = np.bincount(launch.block[registers.threads], minlength=launch.blocks)
    launch.intervals += here == launch.block_size


def pass_warp_barrier(registers, mask):
    """What the lanes of the mask did before is in an order with what they do now."""
    launch, threads = registers.launch, registers.threads
    before = launch.masks[threads]
    if ((before != 0) & (before != mask)).any():
        raise PtxError("a thread waits for other lanes than it did before: the order of memory is not known then")
    launch.masks[threads] = mask
    launch.lane_intervals[threads] += 1


def teams(launch, threads):
    """Who waits for one another within a warp: the number of the first of those lanes, among all of the grid's.

    A lane that never waited is alone.
    """
    masks = launch.masks[threads]
    first = np.log2(np.maximum(masks & (~masks + np.uint32(1)), 1)).astype(int)
    first = np.where(masks == 0, launch.lane[threads], first)
    return (launch.warp[threads] + launch.first_block * launch.warps_of_block) * WARP + first


# --- what they exchange -------------------------------------------------------------------------------------------


def shuffle(registers, mode, values, b, c, mask):
    """shfl.sync: each thread's value from another lane, and whether that lane is inside of the thread's segment.

    The segment, from c's upper byte, is a power of two of lanes; c's lower byte is the last lane that is read (the
    first, going up).  Who points outside gets its own value.
    """
    launch, threads = registers.launch, registers.threads
    lane = launch.lane[threads]
    values, b, c, mask = (np.broadcast_to(x, len(threads)) for x in (values, b, c, mask))
    b, clamp, segment = (b & 31).astype(int), (c & 31).astype(int), (c >> 8 & 31).astype(int)
    last, first = (lane & segment) | (clamp & ~segment), lane & segment
    source = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": first | (b & ~segment)}[mode]
    inside = source >= last if mode == "up" else source <= last
    source = np.where(inside, source, lane)
    position = np.full((launch.warps, WARP), -1)
    position[launch.warp[threads], lane] = np.arange(len(threads))
    position = position[launch.warp[threads], source]
    if (position < 0).any() or not (mask >> source.astype("u4") & 1).all():
        raise PtxError("a shuffle from a lane that does not take part in it")
    return values[position], inside


def vote(registers, mode, given, mask):
    """vote.sync over the threads of a warp that share a mask."""
    launch, threads = registers.launch, registers.threads
    mask = np.broadcast_to(mask, len(threads)).astype("i8")
    _, group = np.unique(launch.warp[threads] << 32 | mask, return_inverse=True)
    given = np.broadcast_to(given, len(threads))
    for_it, all_in = np.bincount(group, given)[group], np.bincount(group)[group]
    if mode == "ballot":
        return np.bincount(group, given * 2.0 ** launch.lane[threads])[group].astype("u4")
    return {"all": for_it == all_in, "any": for_it > 0, "uni": (for_it == 0) | (for_it == all_in)}[mode]


# --- memory -------------------------------------------------------------------------------------------------------


def located(registers, space, addresses, width, state, kind, line):
    """The memory of an access of each thread and where in it, checked, counted and written down."""
    launch, threads = registers.launch, registers.threads
    if space is None:  # generic addresses
        space = {(False, False): "global", (True, False): "shared", (True, True): "local"}.get(
            (bool((addresses >= SHARED).all()), bool((addresses >= LOCAL).all()))
        )
        addresses = addresses - np.uint64({"global": 0, "shared": SHARED, "local": LOCAL}[space])
    memory = launch.memories[space]
    rows = {"global": 0, "shared": launch.block[threads], "local": threads}[space]
    offsets = memory.offsets(addresses, rows, width, state)
    if space != "local" and launch.logs is not None:
        block = launch.block[threads]
        launch.logs[space].add(
            kind,
            offsets + (launch.first_block * memory.stride if space == "shared" else 0),
            width,
            threads + launch.first_block * launch.block_size,
            block + launch.first_block,
            partial(teams, launch, threads),
            launch.intervals[block],
            launch.lane_intervals[threads],
            line,
        )
    counts = launch.counts
    if space == "global":
        sectors = len(np.unique(launch.warp[threads] << 40 | offsets >> 5))
        if kind == READ:
            counts.read_bytes += width * len(threads)
            counts.read_sectors += sectors
        else:
            counts.written_bytes += width * len(threads)
            counts.written_sectors += sectors
    elif space == "shared":
        turns = shared_turns(launch.warp[threads], addresses.astype("i8"), width)
        counts.shared_accesses += len(np.unique(launch.warp[threads]))
        counts.shared_turns += turns
    return memory, offsets


def shared_turns(warps, addresses, width):
    """How many turns the warps' accesses take: in one, each of 32 banks gives one word of 4 bytes to all who want it.

    Numbers of 8 and 16 bytes are taken by half warps and quarter warps, which this does not tell apart: their words
    are counted all together, which comes to the same where all lanes take part.
    """
    words = (addresses[:, None] // 4 + np.arange(max(1, width // 4))).ravel()
    warps = np.repeat(warps, max(1, width // 4))
    words, warps = np.unique(np.stack([words, warps]), axis=1)
    per_bank = np.zeros((warps.max() + 1, 32), int)
    np.add.at(per_bank, (warps, words % 32), 1)
    return int(per_bank.max(axis=1).sum())
